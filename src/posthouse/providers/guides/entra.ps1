# Registers {{ display_name }} at {{ title }} and writes posthouse-app.toml for Posthouse.
# It can be run again: it changes what it made before{% if credential != "none" %}, and makes a new {{ credential }}{% endif %}.
# Needs PowerShell 7.3 or newer, and somebody who may register apps{% if organisation %}, consent for all, and manage Exchange{% endif %}.
$ErrorActionPreference = 'Stop'
function Write-Private($path, $text) {
    $null = New-Item -Force -Path $path
    if (-not $IsWindows) { chmod 600 $path }
    Set-Content -NoNewline -Path $path -Value $text
}
foreach ($module in 'Microsoft.Graph.Applications', 'Microsoft.Graph.Identity.SignIns'{% if organisation %}, 'ExchangeOnlineManagement'{% endif %}) {
    if (-not (Get-Module -ListAvailable -Name $module)) { Install-Module $module -Scope CurrentUser -Force }
}
Connect-MgGraph -NoWelcome -Environment {{ graph | ps }}{% if tenant %} -TenantId {{ tenant | ps }}{% endif %} -Scopes 'Application.ReadWrite.All', 'DelegatedPermissionGrant.ReadWrite.All', 'AppRoleAssignment.ReadWrite.All'

# 00000002-… is Office 365 Exchange Online, 00000003-… is Microsoft Graph.
$permissions = {{ permissions | map("ps") | join(", ") }}
$resources = @({{ resources | map("ps") | join(", ") }} |
    ForEach-Object { Get-MgServicePrincipal -Filter "appId eq '$_'" })
$known = {% if app_only %}{ param($resource) $resource.AppRoles }{% else %}{ param($resource) $resource.Oauth2PermissionScopes }{% endif %}

foreach ($permission in $permissions) {
    if (-not ($resources | Where-Object { (& $known $_).Value -contains $permission })) { throw "This directory does not know $permission." }
}
$access = @(foreach ($resource in $resources) {
    $entries = @((& $known $resource) | Where-Object { $permissions -contains $_.Value } |
        ForEach-Object { @{ Id = $_.Id; Type = '{{ "Role" if app_only else "Scope" }}' } })
    if ($entries) { @{ ResourceAppId = $resource.AppId; ResourceAccess = $entries } }
})
$wanted = @{
    DisplayName = {{ display_name | ps }}
    SignInAudience = {{ audience | ps }}
    RequiredResourceAccess = $access
{% if public_client %}
    IsFallbackPublicClient = $true
{% endif %}
{% if audience == "PersonalMicrosoftAccount" %}
    Api = @{ RequestedAccessTokenVersion = 2 }
{% endif %}
{% if redirect_url %}
    {{ "Web" if credential != "none" else "PublicClient" }} = @{ RedirectUris = @({{ redirect_url | ps }}) }
{% endif %}
}
{% if client_id %}
$app = Get-MgApplication -Filter "appId eq '{{ client_id }}'"
if (-not $app) { throw 'There is no app registration {{ client_id }} in this directory.' }
{% else %}
$app = Get-MgApplication -Filter {{ ("displayName eq '" ~ display_name ~ "'") | ps }} -Top 1
{% endif %}
if ($app) { Update-MgApplication -ApplicationId $app.Id @wanted } else { $app = New-MgApplication @wanted }
{% if organisation %}
$service = Get-MgServicePrincipal -Filter "appId eq '$($app.AppId)'"
if (-not $service) { $service = New-MgServicePrincipal -AppId $app.AppId }
{% endif %}
{% if app_only %}

# Consent of the administrator.
$given = Get-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $service.Id -All
foreach ($role in (& $known $resources[0]) | Where-Object { $permissions -contains $_.Value }) {
    if ($given.AppRoleId -notcontains $role.Id) {
        $null = New-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $service.Id -PrincipalId $service.Id -ResourceId $resources[0].Id -AppRoleId $role.Id
    }
}
{% elif organisation %}

# Consent of the administrator, for everybody in the organisation: each person still has to sign in.
foreach ($resource in $resources) {
    $scope = ($permissions | Where-Object { (& $known $resource).Value -contains $_ }) -join ' '
    $given = Get-MgOauth2PermissionGrant -Filter "clientId eq '$($service.Id)' and resourceId eq '$($resource.Id)' and consentType eq 'AllPrincipals'"
    if (-not $scope) { continue }
    if ($given) { Update-MgOauth2PermissionGrant -OAuth2PermissionGrantId $given.Id -Scope $scope }
    else { $null = New-MgOauth2PermissionGrant -ClientId $service.Id -ConsentType AllPrincipals -ResourceId $resource.Id -Scope $scope }
}
{% endif %}

$lines = @(
    '[[app]]'
    {{ ("name = " ~ (name | toml)) | ps }}
    {{ ("provider = " ~ (provider | toml)) | ps }}
    "client_id = `"$($app.AppId)`""
{% if organisation %}
    "tenant = `"$((Get-MgContext).TenantId)`""
{% endif %}
)
{% if credential == "secret" %}
$secret = Add-MgApplicationPassword -ApplicationId $app.Id -PasswordCredential @{ DisplayName = 'Posthouse'; EndDateTime = (Get-Date).AddMonths(12) }
Write-Private posthouse-secret.txt $secret.SecretText
$lines += 'client_secret = { file = "posthouse-secret.txt" }', "secret_expires = $($secret.EndDateTime.ToString('yyyy-MM-dd'))"
{% elif credential == "certificate" %}
$rsa = [System.Security.Cryptography.RSA]::Create(3072)
$request = [System.Security.Cryptography.X509Certificates.CertificateRequest]::new(
    'CN=Posthouse', $rsa, [System.Security.Cryptography.HashAlgorithmName]::SHA256, [System.Security.Cryptography.RSASignaturePadding]::Pkcs1)
$certificate = $request.CreateSelfSigned([DateTimeOffset]::UtcNow.AddHours(-1), [DateTimeOffset]::UtcNow.AddYears(1))
Write-Private posthouse-key.pem $rsa.ExportPkcs8PrivateKeyPem()
Set-Content -Path posthouse-certificate.pem -Value $certificate.ExportCertificatePem()
# The certificates that are registered already stay, so that what uses them goes on.
$keys = @((Get-MgApplication -ApplicationId $app.Id).KeyCredentials) + @{ Type = 'AsymmetricX509Cert'; Usage = 'Verify'; Key = $certificate.RawData; DisplayName = 'Posthouse' }
Update-MgApplication -ApplicationId $app.Id -KeyCredentials $keys
$lines += 'private_key = { file = "posthouse-key.pem" }', 'certificate = { file = "posthouse-certificate.pem" }'
{% endif %}
Set-Content -Path posthouse-app.toml -Value $lines
{% if organisation %}

# Exchange Online
$AppId, $ObjectId = $app.AppId, $service.Id
{% include "exchange.ps1" %}
{% endif %}

$lines
'This stands in posthouse-app.toml. Next: posthouse apply posthouse-app.toml'
